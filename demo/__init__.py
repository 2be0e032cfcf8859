"""The demo: the whole loop on one machine with a real language model. ``story.py`` tells it, step by step."""
