"""Part of the first token's attention given to the others, beside a policy. Importing this imports no torch."""
