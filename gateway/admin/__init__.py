"""The admin plane: people and programs read and change routes here, with a token, never on the data port."""
