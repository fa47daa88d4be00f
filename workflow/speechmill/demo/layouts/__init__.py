"""Archive layouts of published corpora: each module samples the clips of a layout and packs them."""
