"""SelaVPR, the predecessor: its configuration, network and files. `model` exports what others use."""
