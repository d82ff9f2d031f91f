//! Verdicts of judges that are programs, and the hash that every verdict carries.

use proto::{Label, Verdict};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A verdict, and whether a service was asked for it just now: one that was known, or that follows
/// from the step alone, says nothing of whether the service is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ruling {
    /// The verdict.
    pub verdict: Verdict,
    /// Whether it was asked for.
    pub is_fresh: bool,
}

/// SHA-256 of the parts, each preceded by its length so that no two different lists of parts hash
/// alike.
pub(crate) fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

/// [`digest`] in hexadecimal.
pub(crate) fn hash(parts: &[&str]) -> String {
    let digits = digest(parts);
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who judges by which rules: what the verdicts of one program have in common.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    /// The judge's name.
    pub judge: &'static str,
    /// The version of its rules.
    pub version: &'static str,
    /// [`hash`] of rules and options.
    pub prompt_hash: String,
}

impl Signature {
    /// A verdict that is certain: `Ok` holds why the step is good, `Err` which rule failed.
    pub fn verdict(&self, finding: Result<String, String>) -> Verdict {
        let (label, score, rationale) = match finding {
            Ok(why) => (Label::Good, 1.0, why),
            Err(why) => (Label::Bad, 0.0, why),
        };
        Verdict {
            judge: self.judge.to_owned(),
            model: self.version.to_owned(),
            prompt_hash: self.prompt_hash.clone(),
            label,
            score,
            rationale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha_256_of_the_length_prefixed_parts() {
        // sha256 of nothing at all, as FIPS 180-4 gives it.
        assert_eq!(
            hash(&[]),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["ab"]), hash(&["ab", ""]));
    }
}
