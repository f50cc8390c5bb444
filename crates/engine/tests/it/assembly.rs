//! Root file systems: made, looked at from inside, taken back.

mod bed;
mod copy;
mod failure;
mod fallback;
mod mechanisms;
