"""Token-by-token generation of one turn, recorded."""
