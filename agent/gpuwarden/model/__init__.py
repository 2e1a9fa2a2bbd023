"""Records: frozen data that every room may import. No I/O, no clock, no judgement."""
