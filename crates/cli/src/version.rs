//! Which build of the program this is.

/// The version, and a hash of the code that controller and nodes have in common
/// (`build/sources.rs`): builds of different code refuse each other.
pub const VERSION: &str = env!("SWIRL_VERSION");

#[cfg(test)]
#[path = "../build/sources.rs"]
mod sources;

#[cfg(test)]
mod tests {
    use super::{VERSION, sources};
    use std::fs;

    /// The hash of a program of two crates, one of which has this file.
    fn hash(crate_name: &str, file: &str, text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("proto/src/lib.rs", "struct A;\n"), (file, text)] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert!(dir.path().join(crate_name).exists());
        let shared = sources::shared(dir.path()).unwrap();
        sources::hash(dir.path(), &shared).unwrap()
    }

    #[test]
    fn another_layout_is_another_build_and_another_comment_is_not() {
        let lib = |text: &str| hash("tools", "tools/src/lib.rs", text);
        let known = lib("struct Call {\n    a: u32,\n    b: u64,\n}\n");
        let same = [
            "/// A call.\nstruct Call {\n\n    // the first\n    a: u32,\n    b: u64,\n}\n",
            "struct Call {\n    a: u32,\n    b: u64,\n}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n",
        ];
        for text in same {
            assert_eq!(lib(text), known, "{text}");
        }
        let others = [
            "struct Call {\n    b: u64,\n    a: u32,\n}\n",
            "struct Call {\n    a: u64,\n    b: u64,\n}\n",
        ];
        for text in others {
            assert_ne!(lib(text), known, "{text}");
        }
    }

    #[test]
    fn files_count_by_their_names_and_by_whether_nodes_have_them() {
        let none = hash("tools", "tools/src/tests.rs", "struct A;\n");
        assert_eq!(
            none,
            hash("tools", "tools/src/link/tests.rs", "struct B;\n")
        );
        assert_eq!(none, hash("sim", "sim/src/lib.rs", "struct B;\n"));
        let one = hash("tools", "tools/src/a.rs", "struct B;\n");
        assert_ne!(one, none);
        assert_ne!(one, hash("tools", "tools/src/b.rs", "struct B;\n"));
    }

    #[test]
    fn the_version_is_that_of_the_crate_and_of_its_code() {
        let (version, hash) = VERSION.split_once('+').unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        assert_eq!(hash.len(), 12);
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let shared = sources::shared(&crates).unwrap();
        for name in ["proto", "tools", "judge", "transport", "actors", "cli"] {
            let counts = shared.iter().any(|f| f.parent().unwrap().ends_with(name));
            assert!(counts, "{name}");
        }
    }
}
