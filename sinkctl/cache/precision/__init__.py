"""At what precision keys and values stay in the cache, beside every policy. Importing this imports no torch."""
