//! The checkpoint engine: what this project knows of CRIU and of the files of a
//! checkpoint. It knows nothing of containerd, Docker or runc, so that every
//! front end (the runtime wrapper today) asks the same questions in one place.
//!
//! ```text
//! criu/    the program: is it there and new enough, how it is configured,
//!          what its log means
//! image/   the files: is this a whole checkpoint, is its network external
//! ```
//!
//! Nothing here runs a dump or a restore. CRIU's images and logs are untrusted
//! input: they are read with a bound, and no content can make a reader panic.

pub mod criu;
pub mod image;
pub mod progress;
mod sys;
