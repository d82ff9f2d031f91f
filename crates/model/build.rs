//! Writes the folder of libtorch into the run path of this package's programs and tests, so that
//! they start without `LD_LIBRARY_PATH`. Shared by every package that links libtorch.

use std::path::Path;

/// The entry point, and a part of scripts that do more.
pub fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // `torch-sys` hands the folder on under the name of its `links` key.
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB")
        .expect("packages that use this script depend on torch-sys directly");
    println!("cargo:rustc-link-arg=-Wl,-rpath={lib}");
    // CUDA registers itself when its library is loaded; no symbol of it is referenced, so that the
    // linker would leave it out. `libtorch.so` needs it too and must not be forced in without it.
    if Path::new(&lib).join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg=-ltorch_cuda");
        println!("cargo:rustc-link-arg=-ltorch");
    }
}
