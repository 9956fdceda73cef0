// z is up, as in the scenes. The mesh is centred at the origin and about 2 across.
attribute vec3 position, normal; attribute vec4 color;
uniform vec2 turn; uniform float aspect; varying vec3 shown;
void main() {
  float ca = cos(turn.x), sa = sin(turn.x), ce = cos(turn.y), se = sin(turn.y);
  vec3 right = vec3(-sa, ca, 0.), up = vec3(-se * ca, -se * sa, ce), back = vec3(ce * ca, ce * sa, se);
  float near = .5, far = 6., depth = 3. - dot(position, back);
  float z = (depth * (far + near) - 2. * far * near) / (far - near);
  gl_Position = vec4(2.6 / aspect * dot(position, right), 2.6 * dot(position, up), z, depth);
  shown = color.rgb * (.6 + .4 * abs(dot(normalize(normal), back)));
}
