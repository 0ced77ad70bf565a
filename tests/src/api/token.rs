//! Continue tokens: base64url without padding of a small JSON document, as apimachinery makes them.

use serde_json::{Value, json};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Where the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) version: u64,
    /// After this key.
    pub(super) start: String,
}

impl Token {
    pub(super) fn text(&self) -> String {
        let start = format!("{}\0", self.start);
        encode(
            json!({"v": "meta.k8s.io/v1", "rv": self.version, "start": start})
                .to_string()
                .as_bytes(),
        )
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bytes = decode(text)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let start = value["start"].as_str().unwrap_or_default().trim_end_matches('\0').to_owned();
        match value["rv"].as_u64() {
            Some(version) if value["v"] == "meta.k8s.io/v1" => Ok(Self { version, start }),
            _ => Err("incorrect version".into()),
        }
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(group >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let (mut bytes, mut group, mut bits) = (Vec::new(), 0_u32, 0);
    for (at, byte) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|known| *known == byte);
        let value = value.ok_or_else(|| format!("illegal base64 data at input byte {at}"))?;
        group = group << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_token_is_read_and_written() {
        let text = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NTYyLCJzdGFydCI6Ii9jbGllbnQtaXAtYWZmaW5pdHlcdTAwMDAifQ";
        let token = Token::parse(text).unwrap();
        assert_eq!(token, Token { version: 562, start: "/client-ip-affinity".into() });
        assert_eq!(Token::parse(&token.text()).unwrap(), token);
    }

    #[test]
    fn nonsense_is_refused_in_the_recorded_words() {
        assert_eq!(Token::parse("abcd.").unwrap_err(), "illegal base64 data at input byte 4");
    }
}
