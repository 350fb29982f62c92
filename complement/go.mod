module parlour/complement

go 1.25.0

// The judge. It is not imported: `run` asks Go for its folder and runs the tests there.
require github.com/matrix-org/complement v0.0.0-20260701165844-50044edb68c3
