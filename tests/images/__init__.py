"""Images of cards, made or extended by image/.

The name differs, since `image` is what is tested.
"""
