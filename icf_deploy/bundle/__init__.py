"""The bundle, which is what gets shipped: `manifest` says what it holds, `store` opens and writes it."""
