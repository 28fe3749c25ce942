"""Notes → beats, bars, hands and voices → a score → pages."""
