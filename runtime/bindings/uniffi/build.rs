//! How the shared library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target == "android" || target == "linux" {
        // Android 15 has devices with pages of 16 KB, and so has Linux on Arm; on smaller pages it costs nothing.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,max-page-size=16384");
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmargay_uniffi.so");
    }
    if matches!(target.as_str(), "macos" | "ios") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libmargay_uniffi.dylib");
    }
}
