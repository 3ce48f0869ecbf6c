"""Trained models behind an address, as programs and people ask them.

requests.py   what a client sends → a prompt and options, or an error it understands
batching.py   prompts are answered together, token by token (rows.py); who comes later joins
server.py     OpenAI's addresses over both (chat.py, texts.py); keys, limits, metrics
looks.py      what an answer rests on (`lucida.look`), a forward at a time between two tokens
foreign.py    the same for models of others
page.html     the same for people, in a browser
"""
