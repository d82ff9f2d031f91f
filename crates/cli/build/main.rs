//! Links libtorch, and names the build after the sources that controller and nodes have in common.

#[path = "../../model/build.rs"]
mod libtorch;
mod sources;

use std::path::Path;

fn main() {
    libtorch::main();
    println!("cargo:rerun-if-changed=build");
    let crates = Path::new("..");
    let shared = sources::shared(crates).expect("the sources of the program lie beside this one's");
    for folder in &shared {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    let hash = sources::hash(crates, &shared).expect("the sources can be read");
    let version = std::env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    println!("cargo:rustc-env=SWIRL_VERSION={version}+{hash}");
}
