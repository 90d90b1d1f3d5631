//! The stack of each eBPF program: what it uses and what the functions that it calls use,
//! which have to fit into 512 bytes together, as the kernel counts them
//! (`check_max_stack_depth` of `kernel/bpf/verifier.c`).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// All that a chain of calls may use.
const LIMIT: u64 = 512;
/// What the kernel rounds a function's stack up to.
const GRAIN: u64 = 32;
/// Bytes of an instruction.
const INSTRUCTION: u64 = 8;
/// More calls in a row than any kernel lets a program make.
const FRAMES: usize = 8;

/// A function of the object.
#[derive(Debug, Default, PartialEq, Eq)]
struct Function {
    name: String,
    section: String,
    /// Where it begins in its section.
    at: u64,
    /// The lowest byte of the stack that it uses, below the frame's pointer.
    stack: u64,
    calls: Vec<Callee>,
}

/// What is called.
#[derive(Debug, PartialEq, Eq)]
enum Callee {
    /// A function with this name.
    Named(String),
    /// The one at this place of a section.
    At(String, u64),
}

/// Refuses an object whose deepest chain of calls has no place on the stack. Its
/// disassembly is what `llvm-objdump --disassemble --reloc` prints.
pub(crate) fn check(disassembly: &str) -> Result<()> {
    let functions = read(disassembly)?;
    ensure!(!functions.is_empty(), "no function in the disassembly");
    for function in &functions {
        let (depth, chain) = deepest(&functions, function, FRAMES)?;
        ensure!(
            depth <= LIMIT,
            "{} needs {depth} bytes of stack, {LIMIT} is all that the kernel has: {chain}",
            function.name
        );
    }
    Ok(())
}

/// What the deepest chain of calls that begins with `function` uses, and which that is.
fn deepest(functions: &[Function], function: &Function, frames: usize) -> Result<(u64, String)> {
    ensure!(
        frames > 0,
        "{} is called by itself, or too deep",
        function.name
    );
    let mut below = (0, String::new());
    for callee in &function.calls {
        let callee = find(functions, callee)?;
        let chain = deepest(functions, callee, frames - 1)?;
        if chain.0 > below.0 {
            below = chain;
        }
    }
    let own = function.stack.max(1).next_multiple_of(GRAIN);
    let mut chain = format!("{} {own}", function.name);
    if below.0 > 0 {
        chain = format!("{chain}, {}", below.1);
    }
    Ok((own + below.0, chain))
}

fn find<'a>(functions: &'a [Function], callee: &Callee) -> Result<&'a Function> {
    let found = functions.iter().find(|function| match callee {
        Callee::Named(name) => function.name == *name,
        Callee::At(section, at) => function.section == *section && function.at == *at,
    });
    found.with_context(|| format!("no function for {callee:?}"))
}

/// The functions of a disassembly.
fn read(disassembly: &str) -> Result<Vec<Function>> {
    let mut functions: Vec<Function> = Vec::new();
    let mut section = String::new();
    // The registers that point to the frame, and the last call's argument.
    let mut frames: BTreeMap<&str, u64> = BTreeMap::new();
    let mut called = None;
    for line in disassembly.lines() {
        if let Some(name) = line.strip_prefix("Disassembly of section ") {
            name.trim_end_matches(':').clone_into(&mut section);
            continue;
        }
        if let Some((at, name)) = function_head(line) {
            functions.push(Function {
                name: name.to_owned(),
                section: section.clone(),
                at,
                ..Function::default()
            });
            frames.clear();
            continue;
        }
        let Some(function) = functions.last_mut() else {
            continue;
        };
        if let Some((_, symbol)) = line.split_once("R_BPF_64_32") {
            let argument = called.take().context("a relocation of no call")?;
            function.calls.push(callee(symbol.trim(), argument)?);
        } else if let Some((_, instruction)) = line.split_once(":\t") {
            called = instruction.strip_prefix("call ").and_then(number);
            let depth = depth_of(instruction, &mut frames);
            function.stack = function.stack.max(depth);
        }
    }
    Ok(functions)
}

/// `0000000000000058 <memmove>:`.
fn function_head(line: &str) -> Option<(u64, &str)> {
    let (at, name) = line.strip_suffix(">:")?.split_once(" <")?;
    Some((u64::from_str_radix(at, 16).ok()?, name))
}

/// A call of a section counts instructions from the section's first.
fn callee(symbol: &str, argument: i64) -> Result<Callee> {
    if !symbol.starts_with('.') {
        return Ok(Callee::Named(symbol.to_owned()));
    }
    let Ok(before) = u64::try_from(argument + 1) else {
        bail!("a call of {symbol} before its beginning: {argument}");
    };
    Ok(Callee::At(symbol.to_owned(), before * INSTRUCTION))
}

/// How deep below the frame's pointer an instruction goes. What it adds to a register that
/// points there is where a helper, or another instruction, goes.
fn depth_of<'a>(instruction: &'a str, frames: &mut BTreeMap<&'a str, u64>) -> u64 {
    if let Some((_, rest)) = instruction.split_once("(r10 - ") {
        let depth = rest.split(')').next().and_then(number);
        return depth.map_or(0, i64::unsigned_abs);
    }
    if let Some(register) = instruction.strip_suffix(" = r10") {
        frames.insert(register, 0);
        return 0;
    }
    if let Some((register, added)) = instruction.split_once(" += ") {
        let depth = frames.get_mut(register).zip(number(added));
        return depth.map_or(0, |(depth, added)| {
            // Upwards from a place below it stays in the frame.
            *depth = depth.saturating_add_signed(added.saturating_neg());
            *depth
        });
    }
    if let Some((register, _)) = instruction.split_once(" = ") {
        frames.remove(register);
    }
    0
}

/// `212`, `0xd4`, `-0x1`.
fn number(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    Some(sign * value.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function that others call, at the place 0x58 of `.text`, and a program that calls
    /// it by name and by place, each with so many bytes of stack.
    fn object(function: u64, program: u64) -> String {
        format!(
            "\nDisassembly of section .text:\n\n\
             0000000000000000 <memset>:\n       0:\texit\n\n\
             0000000000000058 <pm_sent>:\n      11:\t*(u32 *)(r10 - 0x{function:x}) = w6\n\
             \x20     12:\texit\n\n\
             Disassembly of section fentry/tcp_connect:\n\n\
             0000000000000000 <pm_connect_fe>:\n       0:\tr2 = r10\n       1:\tr2 += -0x{program:x}\n\
             \x20      2:\tcall -0x1\n\t\t0000000000000010:  R_BPF_64_32\tpm_sent\n\
             \x20      3:\tcall 0xa\n\t\t0000000000000018:  R_BPF_64_32\t.text\n\
             \x20      4:\tcall 0x7d\n       5:\texit\n"
        )
    }

    fn depth(disassembly: &str) -> (u64, String) {
        let functions = read(disassembly).unwrap();
        deepest(&functions, functions.last().unwrap(), FRAMES).unwrap()
    }

    #[test]
    fn the_deepest_chain_is_what_counts() {
        let calls = [
            Callee::Named("pm_sent".to_owned()),
            Callee::At(".text".to_owned(), 0x58),
        ];
        let functions = read(&object(24, 456)).unwrap();
        assert_eq!(functions.last().unwrap().calls, calls);
        let (bytes, chain) = depth(&object(24, 456));
        assert_eq!((bytes, &*chain), (512, "pm_connect_fe 480, pm_sent 32"));
        // A function without a stack takes some all the same.
        assert_eq!(depth(&object(0, 0)).0, 64);
    }

    #[test]
    fn more_than_the_kernel_has_is_refused() {
        check(&object(24, 456)).unwrap();
        let refused = check(&object(40, 456)).unwrap_err().to_string();
        assert_eq!(
            refused,
            "pm_connect_fe needs 544 bytes of stack, 512 is all that the kernel has: \
             pm_connect_fe 480, pm_sent 64"
        );
    }

    #[test]
    fn what_points_to_the_stack_is_followed() {
        let mut frames = BTreeMap::new();
        let mut depth = |instruction| depth_of(instruction, &mut frames);
        assert_eq!(depth("r1 += -0x8"), 0);
        assert_eq!(depth("r1 = r10"), 0);
        assert_eq!(depth("r1 += -0x40"), 64);
        assert_eq!(depth("r1 += 0x10"), 48);
        assert_eq!(depth("r1 += -64"), 112);
        assert_eq!(depth("r1 = r2"), 0);
        assert_eq!(depth("r1 += -0x100"), 0);
        assert_eq!(depth("w6 = *(u32 *)(r10 - 0x1c8)"), 456);
        assert_eq!(depth("*(u64 *)(r10 - 16) = r1"), 16);
    }

    #[test]
    fn a_disassembly_that_cannot_be_read_is_no_proof() {
        check("").unwrap_err();
        let nowhere = object(8, 8).replace("0xa", "0xb");
        check(&nowhere).unwrap_err();
        let by_itself = object(8, 8).replace("\tpm_sent\n", "\tpm_connect_fe\n");
        check(&by_itself).unwrap_err();
    }
}
