"""How Toytown is drawn: buildings, textures, camera and light, scene, photograph, files."""
