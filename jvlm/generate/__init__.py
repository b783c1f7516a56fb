"""From a prompt to text: decoding with a cache, sampling, beam search."""
