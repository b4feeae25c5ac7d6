//! Programs that print an answer, and programs that compute one.

use proptest::prelude::*;

use super::reproduces;

const ANSWER: &str = "mean=42.3, stdev=7.1";

#[test]
fn a_printed_answer_is_found_however_it_is_quoted() {
    for code in [
        "print('mean=42.3, stdev=7.1')",
        "print(\"mean=42.3, stdev=7.1\")",
        "console.log(`mean=42.3, stdev=7.1`);",
        "print(\"\"\"\nmean=42.3,\nstdev=7.1\n\"\"\")",
        "fn main() { println!(\"mean=42.3, stdev=7.1\"); }",
        "puts 'mean=' + '42' + '.3, stdev=7.1'",
        "echo 'mean=42.3, ' . 'stdev=7.1';",
        "std::cout << \"mean=\" << \"42.3\" << \", stdev=7.1\";",
        "print(f'mean={42.3}, stdev={7.1}')",
        "m = 42.3\ns = 7.1\nprint(f'mean={m}, stdev={s}')",
        "s := 'mean=\\x34\\x32.3, stdev=\\u0037.1'",
        "print('mean=42.3, '\n      'stdev=7.1')",
        "#define OUT \"mean=42.3, stdev=7.1\"\nint main() { puts(OUT); }",
        "if True:\n  x = load()\nprint({'mean': 42.3, 'stdev': 7.1})",
    ] {
        assert!(reproduces(code, ANSWER), "{code}");
    }
}

#[test]
fn a_computed_answer_is_not_flagged() {
    for code in [
        "import statistics\nprint(statistics.mean(load()))",
        "print(f'mean={mean(x)}, stdev={stdev(x)}')",
        "# prints 'mean=42.3, stdev=7.1' for the sample\nprint(f'mean={m}, stdev={s}')",
        "def f(x):\n    \"\"\"For the sample: mean=42.3, stdev=7.1\"\"\"\n    print(f'mean={m}, stdev={s}')",
        "// it's mean=42.3, and that's stdev=7.1\nprint!(\"mean={m}, stdev={s}\")",
        "/* 'mean=42.3, stdev=7.1' */ printf(\"mean=%f, stdev=%f\", m, s);",
        "fn f<'a>(x: &'a str) -> &'a str { x }",
        "",
    ] {
        assert!(!reproduces(code, ANSWER), "{code}");
    }
    assert!(!reproduces("print(sorted([400, 100, 300, 200]))", "[100, 200, 300, 400]"), "another order");
    assert!(!reproduces("for r in rows: print(f'row {r} is done')", "row 1 is done\nrow 2 is done"));
}

#[test]
fn what_says_little_is_no_evidence() {
    assert!(!reproduces("print('ok')", "ok"));
    assert!(!reproduces("print('Hello world')", "Hello world"), "a message is no answer");
    assert!(!reproduces("print(f(1, 2, 3, 4, 5))", "1 2 3 4 5 1 2 3 4 5"), "small numbers are everywhere");
    assert!(!reproduces("print('anything')", "   "));
    assert!(reproduces("print('1 1 2 3 5 8 13 21')", "1 1 2 3 5 8 13 21"), "but not as a whole text");
}

#[test]
fn a_little_computing_does_not_hide_an_answer() {
    let answer: String = (0..30).map(|n| format!("row{n}: {}\n", n * 37)).collect();
    let code = format!("print('''{answer}''', time.time())");
    assert!(reproduces(&code, &format!("{answer} 1750000000.5")));
}

#[test]
fn long_texts_take_no_long_time() {
    let code = format!("print({})", "'a1 b22 c333' ".repeat(35_000));
    let output = "b22 c333 1 2 3 ".repeat(33_000);
    let started = std::time::Instant::now();
    reproduces(&code, &output);
    reproduces(&"'".repeat(500_000), &output);
    reproduces(&"'\\".repeat(250_000), &output);
    reproduces(&"/*".repeat(250_000), &output);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

proptest! {
    #[test]
    fn any_text_is_judged(code in "\\PC{0,200}", output in "\\PC{0,200}") {
        reproduces(&code, &output);
    }

    #[test]
    fn a_number_that_the_code_does_not_have_is_computed(value in 100_000u32..999_999) {
        let output = format!("the result of it is {value}");
        let computed = "print(f'the result of it is {total(rows)}')";
        let printed = format!("print('the result of it is {}')", value);
        prop_assert!(!reproduces(computed, &output));
        prop_assert!(reproduces(&printed, &output));
    }
}
