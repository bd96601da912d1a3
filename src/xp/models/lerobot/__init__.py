"""Every policy type that LeRobot knows, its plugins included: one family, told apart by `model.type`."""
