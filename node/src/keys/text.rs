//! A secret in JSON: a passphrase on its way to the agent, a secret on its way from a server.
use super::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A text that goes into locked memory as it is read.
#[derive(Debug)]
pub struct SecretText(pub Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = SecretText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretText, E> {
                // Beyond this nothing that is expected is a secret.
                if text.len() > ublk_target::secrets::MAX_SECRET_BYTES {
                    return Err(E::custom("the text is too long"));
                }
                Ok(SecretText(Secret::copy_of(text.as_bytes())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<SecretText, E> {
                let mut bytes = text.into_bytes();
                let taken = std::str::from_utf8(&bytes)
                    .map_or_else(|_| Err(E::custom("no text")), |t| self.visit_str(t));
                ublk_target::secrets::wipe(&mut bytes);
                taken
            }
        }
        from.deserialize_str(Text)
    }
}

/// On purpose: the command line hands a passphrase to the agent, over a socket that only its user can open.
impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(self.0.expose()).map_err(|_| serde::ser::Error::custom("no text"))?;
        to.serialize_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_in_and_is_not_shown() {
        let text: SecretText = serde_json::from_str("\"a\\\"b\"").expect("reads");
        assert!(text.0.same(b"a\"b"));
        assert_eq!(format!("{text:?}"), "SecretText(Secret(..))");
        assert_eq!(serde_json::to_string(&text).expect("writes"), "\"a\\\"b\"");
        assert!(serde_json::from_str::<SecretText>("7").is_err());
    }
}
