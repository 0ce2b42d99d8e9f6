//! The oracle against simulated jobs and against orders recorded from the real samplers.

mod golden;
mod hostile;
mod identify;
mod jobs;
mod predict;
mod random;
