//! A register map that cannot be fails the build, and says why.

#[test]
fn a_register_map_that_cannot_be_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/register_maps/beyond.rs");
    cases.compile_fail("tests/register_maps/empty_range.rs");
    cases.compile_fail("tests/register_maps/gap.rs");
    cases.compile_fail("tests/register_maps/gap_at_the_end.rs");
    cases.compile_fail("tests/register_maps/mapped_w1c.rs");
    cases.compile_fail("tests/register_maps/mapped_wo.rs");
    cases.compile_fail("tests/register_maps/overlap.rs");
    cases.compile_fail("tests/register_maps/overlap_with_reserved.rs");
    cases.compile_fail("tests/register_maps/shown_wo.rs");
    cases.compile_fail("tests/register_maps/unaligned.rs");
    cases.compile_fail("tests/register_maps/unknown_word.rs");
    cases.compile_fail("tests/register_maps/wide_reset.rs");
}
