// A vertex of our PLY is 16 bytes (3 floats, RGBA), a face 13 (a count of 3, 3 integers).
(() => {
const canvas = document.getElementById("viewer"), choice = document.getElementById("mesh");
const gl = canvas.getContext("webgl2", {antialias: true});
if (!gl) { canvas.replaceWith("This browser has no WebGL 2."); return; }
const program = gl.createProgram();
for (const [type, id] of [[gl.VERTEX_SHADER, "vertex"], [gl.FRAGMENT_SHADER, "fragment"]]) {
  const shader = gl.createShader(type);
  gl.shaderSource(shader, document.getElementById(id + "-shader").textContent.trim());
  gl.compileShader(shader); gl.attachShader(program, shader);
}
gl.linkProgram(program); gl.useProgram(program); gl.enable(gl.DEPTH_TEST);
const [turn, aspect] = ["turn", "aspect"].map(name => gl.getUniformLocation(program, name));

function parse(text) {
  const bytes = Uint8Array.from(atob(text.trim()), c => c.charCodeAt(0));
  const start = new TextDecoder("latin1").decode(bytes.subarray(0, 2000));
  const header = start.split("end_header\n")[0];
  const [nv, nf] = ["vertex", "face"].map(k => +header.match("element " + k + " (\\d+)")[1]);
  const view = new DataView(bytes.buffer, header.length + 11), faces = new Uint32Array(3 * nf);
  const at = (i, k) => view.getFloat32(16 * i + 4 * k, true), normals = new Float32Array(3 * nv);
  for (let f = 0; f < nf; f++) {
    const v = [1, 5, 9].map(byte => view.getInt32(16 * nv + 13 * f + byte, true));
    faces.set(v, 3 * f);
    const [a, b] = [1, 2].map(j => [0, 1, 2].map(k => at(v[j], k) - at(v[0], k)));
    for (const i of v) for (let k = 0; k < 3; k++)
      normals[3 * i + k] += a[(k + 1) % 3] * b[(k + 2) % 3] - a[(k + 2) % 3] * b[(k + 1) % 3];
  }
  return {vertices: bytes.slice(header.length + 11, header.length + 11 + 16 * nv), normals, faces};
}
function fill(target, data) {
  gl.bindBuffer(target, gl.createBuffer()); gl.bufferData(target, data, gl.STATIC_DRAW);
}
function attribute(name, size, type, normalised, stride, offset) {
  const where = gl.getAttribLocation(program, name);
  gl.enableVertexAttribArray(where);
  gl.vertexAttribPointer(where, size, type, normalised, stride, offset);
}
let count = 0, azimuth = .6, elevation = .3, held = null;
let spinning = !matchMedia("(prefers-reduced-motion: reduce)").matches;
function load() {
  const mesh = parse(document.getElementById("mesh-" + choice.value).textContent);
  fill(gl.ARRAY_BUFFER, mesh.vertices);
  attribute("position", 3, gl.FLOAT, false, 16, 0);
  attribute("color", 4, gl.UNSIGNED_BYTE, true, 16, 12);
  fill(gl.ARRAY_BUFFER, mesh.normals); attribute("normal", 3, gl.FLOAT, false, 0, 0);
  fill(gl.ELEMENT_ARRAY_BUFFER, mesh.faces); count = mesh.faces.length;
  if (!spinning) draw();
}
function draw() {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clearColor(.5, .5, .5, 1); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.uniform2f(turn, azimuth, elevation);
  gl.uniform1f(aspect, canvas.width / canvas.height);
  gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
}
canvas.onpointerdown = e => { held = e; spinning = false; canvas.setPointerCapture(e.pointerId); };
canvas.onpointerup = canvas.onpointercancel = () => held = null;
canvas.onpointermove = e => {
  if (!held) return;
  azimuth -= (e.clientX - held.clientX) / 100;
  elevation = Math.max(-1.5, Math.min(1.5, elevation + (e.clientY - held.clientY) / 100));
  held = e; draw();
};
(function spin() { if (spinning) { azimuth += .01; draw(); requestAnimationFrame(spin); } })();
choice.onchange = load; onresize = draw; load();
})();
