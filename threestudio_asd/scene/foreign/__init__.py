"""Meshes from elsewhere: GLB, OBJ and PLY files, their colours, and how they are seen."""
