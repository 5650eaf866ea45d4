"""How far colours are from other colours: `metrics` per picture, `drift` per engine, `budget` for what is allowed."""
