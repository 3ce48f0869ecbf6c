"""The vision-language model: encoder, projector, language model, masks, saving and decoding."""
