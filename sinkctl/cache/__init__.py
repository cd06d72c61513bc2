"""What stays in the KV cache (`policies/`), and the cache carried between blocks of tokens (`blocks.py`)."""
