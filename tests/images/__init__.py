"""Images of cards, made or added to by image/. Not named as that: `image` is what is tested."""
