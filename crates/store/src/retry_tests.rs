//! The retry loop against a scripted backend, on a clock moved by hand.
