//! Causes of CRIU's failures, with their remedies.
//!
//! CRIU logs "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider
//! using --tcp-established option". This module maps each such message that has a
//! known meaning to a [`Cause`]. The cause's text names the reason and what to do
//! about it. The messages are those of CRIU 3.17 to 4.2.
//!
//! [`kinds`] has the causes, [`text`] their messages for the user, and [`messages`] the
//! mapping from CRIU's messages.

mod kinds;
mod messages;
mod text;

pub use kinds::{Cause, Descriptor, Socket, Watched};
