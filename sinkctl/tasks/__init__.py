"""Tasks: run(recipe, model) → Result."""
