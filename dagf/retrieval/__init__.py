"""Images, descriptors, search, and how good a ranking is.

Pillow would start Ghostscript, a program of its own, for a file that begins as PostScript does, whatever it is called.
A photograph never needs that, so it is switched off before any image is read. It learns to read HEIC, which phones
write: after AVIF, for both may begin alike, and only Pillow's reader of AVIF passes on what it cannot read.
"""

from PIL import AvifImagePlugin as AvifImagePlugin
from PIL import EpsImagePlugin
from pillow_heif import register_heif_opener

EpsImagePlugin.gs_binary = False
# An embedded thumbnail is another picture than the photograph; images are decoded side by side already.
register_heif_opener(thumbnails=False, decode_threads=1)
