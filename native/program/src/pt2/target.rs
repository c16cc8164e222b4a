//! What the target of a node asks for, by its name.

use crate::allow;
use crate::error::Error;
use crate::ir::Target;
use crate::scalar::ScalarOp;

/// What a node's target asks for.
pub(super) enum Callee {
    Run(Target),
    /// A check of the export's own assumptions, which computes nothing.
    Assertion,
    Region(Region),
}

/// A higher-order operator that Kindling knows: it runs a graph that it is given, once, on operands that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Region {
    /// `torch.no_grad` and `torch.enable_grad`.
    GradMode,
    /// `torch.autocast`.
    Autocast,
    /// `torch.utils.checkpoint`.
    Checkpoint,
    /// `torch.compiler.nested_compile_region`: only a mark for a compiler.
    Nested,
    /// `torch.cond`.
    Cond,
}

pub(super) fn callee(node: &str, raw: &str) -> Result<Callee, Error> {
    let forbidden = |op: String| Err(Error::ForbiddenOp { node: node.to_owned(), op });
    if let Some(op) = ScalarOp::from_target(raw) {
        return Ok(Callee::Run(Target::Scalar(op)));
    }
    if ["_operator.", "math.", "torch.sym_", "builtins."].iter().any(|prefix| raw.starts_with(prefix)) {
        return Err(Error::SymbolicNumber { node: node.to_owned(), op: raw.to_owned() });
    }
    let mut parts = raw.strip_prefix("torch.ops.").unwrap_or(raw).splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("higher_order"), Some(name), _) => match region(name) {
            Some(region) => Ok(Callee::Region(region)),
            None => Err(Error::HigherOrder { node: node.to_owned(), op: raw.to_owned(), hint: hint(name) }),
        },
        (Some("aten"), Some(name), Some(_)) if allow::is_assertion(name) => Ok(Callee::Assertion),
        (Some("aten"), Some(name), Some(overload)) => {
            let name = format!("aten::{name}");
            let overload = if overload == "default" { "" } else { overload };
            // An out= overload writes into, and may re-allocate, a tensor of its caller's; export never writes one.
            if allow::is_allowed(&name) && overload != "out" && !overload.ends_with("_out") {
                return Ok(Callee::Run(Target::Aten { name, overload: overload.to_owned() }));
            }
            let dot = if overload.is_empty() { "" } else { "." };
            forbidden(format!("{name}{dot}{overload}"))
        }
        _ => forbidden(raw.to_owned()),
    }
}

fn region(name: &str) -> Option<Region> {
    Some(match name {
        "wrap_with_set_grad_enabled" => Region::GradMode,
        "wrap_with_autocast" => Region::Autocast,
        "tag_activation_checkpoint" | "wrap_activation_checkpoint" => Region::Checkpoint,
        "invoke_subgraph" => Region::Nested,
        "cond" => Region::Cond,
        _ => return None,
    })
}

/// What to write instead of a higher-order operator.
fn hint(name: &str) -> &'static str {
    match name {
        "map" | "map_impl" => "use torch.vmap or a batched operator in place of map",
        "scan" | "while_loop" | "associative_scan" => {
            "write the loop in Python over a number of steps that is known at export"
        }
        "flex_attention" => "use torch.nn.functional.scaled_dot_product_attention",
        "triton_kernel_wrapper_functional" | "triton_kernel_wrapper_mutation" => {
            "write it with PyTorch's operators in place of a Triton kernel"
        }
        "wrap_with_set_grad_enabled" => "leave torch.set_grad_enabled out of the model",
        _ => "write the model without it",
    }
}
