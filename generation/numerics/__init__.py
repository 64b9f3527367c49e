"""The settings of torch that change the last bits: read, set as recorded, made deterministic."""
