"""What a model looked at: `lucida.look(run, image, question)`; it is `inside.look`.

inside      one question taken apart: read this first
places      which pixels of the picture a visual token stands for
watching    attention recorded, heads put to zero
covering    parts of the picture covered, and what that does to the answer
lens        the words that visual tokens already say, layer by layer
drawing     maps over the picture as PNG
page        the same as one HTML page
"""
