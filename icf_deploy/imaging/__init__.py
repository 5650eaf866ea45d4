"""Photos and colours: `codec` and `output` for files, `color` for CIELAB, `resample` and `merge` between photo and ab."""
