"""The published corpora that can be spoken: one module a layout, which draws who says what and packs it."""
