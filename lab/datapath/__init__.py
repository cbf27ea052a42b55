"""How plain data of trusted peers go between the Teredo interface and UDP without the state machine."""
