//! A port's rules for whole connections: wire → a `ConnectionTable` (`route/`), the backends they name, and a readable form.
//! Bound: [`MAX_NAMES`] server names on one port.

use std::sync::Arc;

use weft_proto::v1;

use super::backend::Intern;
use super::error::{CompileError, In};
use super::filters::Around;
use super::routes::{compile_target, readable_target};
use crate::config::model::{Backend, RuleView};
use crate::route::{ConnectionRule, ConnectionTable, WeightedTargets};

/// Most server names on one port: ten TLSRoutes as large as they may be.
const MAX_NAMES: usize = 10_240;

pub(super) struct CompiledConnections {
    pub(super) table: ConnectionTable<Arc<Backend>>,
    /// Each once, also those whose weight is zero.
    pub(super) backends: Vec<Arc<Backend>>,
    pub(super) rules: Vec<RuleView>,
}

pub(super) fn compile_connections(
    wire: &v1::ConnectionRoutes,
    port: u16,
    node: &str,
    interned: &mut dyn Intern,
) -> Result<CompiledConnections, CompileError> {
    let names: usize = wire.rules.iter().map(|rule| rule.hosts.len()).sum();
    if names > MAX_NAMES {
        return Err(CompileError::new(format_args!("{names} server names are more than {MAX_NAMES}"))).field("rules");
    }
    let mut backends = Vec::new();
    let mut around = Around { node, interned, called: port, backends: &mut backends };
    let mut rules = Vec::with_capacity(wire.rules.len());
    let mut views = Vec::with_capacity(wire.rules.len());
    for (index, rule) in wire.rules.iter().enumerate() {
        let (compiled, view) = compile_rule(rule, &mut around).field(format_args!("rules[{index}]"))?;
        rules.push((compiled, rule.hosts.iter().map(|host| host.as_str().into()).collect()));
        views.push(view);
    }
    let table = ConnectionTable::new(rules).field("rules")?;
    Ok(CompiledConnections { table, backends, rules: views })
}

fn compile_rule(
    rule: &v1::ConnectionRule,
    around: &mut Around<'_>,
) -> Result<(ConnectionRule<Arc<Backend>>, RuleView), CompileError> {
    let matches = match &*rule.hosts {
        [] => vec!["any connection".to_owned()],
        hosts => hosts.iter().map(|host| format!("server name {host}")).collect(),
    };
    let mut view = RuleView {
        route: rule.route.clone(),
        rule: rule.rule.clone(),
        matches,
        filters: Vec::new(),
        rate_limits: Vec::new(),
        targets: Vec::new(),
    };
    let mut targets = Vec::with_capacity(rule.targets.len());
    for (index, wire) in rule.targets.iter().enumerate() {
        let field = format!("targets[{index}]");
        if !wire.filters.is_empty() {
            return Err(CompileError::new("a connection has none")).field("filters").field(field);
        }
        let target = compile_target(wire, around).field(field)?;
        view.targets.push(readable_target(&target, wire, around));
        targets.push(target);
    }
    let rule = ConnectionRule {
        route: rule.route.as_str().into(),
        name: rule.rule.as_str().into(),
        targets: WeightedTargets::new(targets),
    };
    Ok((rule, view))
}

#[cfg(test)]
mod tests;
