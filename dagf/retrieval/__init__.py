"""Images, descriptors, search, and how good a ranking is.

Pillow would start Ghostscript, a program of its own, for a file that begins as PostScript does, whatever it is called.
A photograph never needs that, so it is switched off before any image is read.
"""

from PIL import EpsImagePlugin

EpsImagePlugin.gs_binary = False
