"""Recipes: every experiment is a YAML file, and every command builds one."""
