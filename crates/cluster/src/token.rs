//! The shared token: how both ends of a connection prove that they know it without saying it.
//!
//! The end that opened the connection sends a nonce; the other answers with a nonce of its own and
//! HMAC-SHA256(token, "server", both nonces); the first checks that and sends HMAC-SHA256(token, "client",
//! both nonces). Nonces are drawn for each connection and good for one proof, so that what was
//! recorded proves nothing on another connection, and no clock is needed.
//!
//! # Deliberately absent
//!
//! - No secrecy and no protection of what follows from somebody who can change packets on the way: that
//!   is what `tls` is for. The token keeps out those who can reach the port.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::wire;

/// The shortest token accepted, in bytes: 128 bits in hexadecimal digits.
pub const TOKEN_BYTES_MIN: usize = 32;

/// A secret that all nodes of a cluster share. Printing it shows nothing.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Random bytes for each connection.
pub(crate) type Nonce = [u8; 32];

/// Which end proves: what one end sent is no proof for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Opened the connection.
    Client,
    /// Accepted it.
    Server,
}

impl Token {
    /// The token that a file holds: its text without the blanks around it.
    ///
    /// # Errors
    ///
    /// If it is too short to be one.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let token = text.trim_ascii();
        if token.len() < TOKEN_BYTES_MIN {
            return Err(format!(
                "holds {} bytes; a token has at least {TOKEN_BYTES_MIN}, such as the output of \
                 `openssl rand -hex 32`",
                token.len()
            ));
        }
        Ok(Self(token.into()))
    }

    fn mac(&self, end: End, client: &Nonce, server: &Nonce) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(match end {
            End::Client => b"feedline peer 1 client",
            End::Server => b"feedline peer 1 server",
        });
        mac.update(client);
        mac.update(server);
        mac
    }

    /// The proof of one end, in hexadecimal digits.
    pub(crate) fn prove(&self, end: End, client: &Nonce, server: &Nonce) -> String {
        wire::hex(&self.mac(end, client, server).finalize().into_bytes())
    }

    /// True if `proof` is that of `end`. Takes the same time wherever they differ.
    pub(crate) fn is_proof(&self, end: End, client: &Nonce, server: &Nonce, proof: &str) -> bool {
        wire::from_hex(proof)
            .is_some_and(|proof| self.mac(end, client, server).verify_slice(&proof).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_proof_is_good_for_its_token_end_and_nonces_only() {
        let (ours, other) = (token(&"a".repeat(32)), token(&"b".repeat(32)));
        let (client, server) = ([1; 32], [2; 32]);
        let proof = ours.prove(End::Client, &client, &server);
        assert!(ours.is_proof(End::Client, &client, &server, &proof));
        assert!(!ours.is_proof(End::Server, &client, &server, &proof), "sent back");
        assert!(!ours.is_proof(End::Client, &client, &[3; 32], &proof), "replayed");
        assert!(!ours.is_proof(End::Client, &[3; 32], &server, &proof));
        assert!(!other.is_proof(End::Client, &client, &server, &proof));
        assert!(!ours.is_proof(End::Client, &client, &server, "00"));
    }

    #[test]
    fn a_token_is_read_without_blanks_and_never_shown() {
        let text = "0123456789abcdef0123456789abcdef";
        let (plain, blank) = (token(text), token(&format!("  {text}\n")));
        let nonces = ([1; 32], [2; 32]);
        let proof = |token: &Token| token.prove(End::Server, &nonces.0, &nonces.1);
        assert_eq!(proof(&plain), proof(&blank));
        assert!(!format!("{plain:?}").contains("0123"));
        assert!(Token::read(b"secret\n").unwrap_err().contains("6 bytes"));
    }
}
