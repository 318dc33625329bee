//! What `#[service]` accepts without a warning, and what it says to everything else.
//!
//! After a change of a message, `TRYBUILD=overwrite cargo test -p tests --test macro_ui` writes the `.stderr` files.

#[test]
fn uses_compile_and_misuses_are_explained() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
