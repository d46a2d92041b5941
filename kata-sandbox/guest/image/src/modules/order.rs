//! Load order: everything after what it needs.

use std::collections::BTreeSet;

/// Visits the names in `wanted` and all they need, each once and each after what
/// it needs. `needs` is asked once per name; names in a circle come back as
/// `Err` with the way that led there.
pub(super) fn load_order<E>(
    wanted: &[String],
    mut needs: impl FnMut(&str) -> Result<Vec<String>, E>,
) -> Result<Result<Vec<String>, Vec<String>>, E> {
    let mut walk = Walk {
        order: vec![],
        done: BTreeSet::new(),
        path: vec![],
    };
    for name in wanted {
        if let Some(circle) = walk.visit(name, &mut needs)? {
            return Ok(Err(circle));
        }
    }
    Ok(Ok(walk.order))
}

struct Walk {
    order: Vec<String>,
    done: BTreeSet<String>,
    path: Vec<String>,
}

impl Walk {
    /// `Some` way when it leads in a circle.
    fn visit<E>(
        &mut self,
        name: &str,
        needs: &mut impl FnMut(&str) -> Result<Vec<String>, E>,
    ) -> Result<Option<Vec<String>>, E> {
        if self.done.contains(name) {
            return Ok(None);
        }
        if let Some(at) = self.path.iter().position(|other| other == name) {
            let circle = self.path[at..].iter().cloned().chain([name.to_owned()]);
            return Ok(Some(circle.collect()));
        }
        self.path.push(name.to_owned());
        for need in needs(name)? {
            if let Some(circle) = self.visit(&need, needs)? {
                return Ok(Some(circle));
            }
        }
        self.path.pop();
        self.done.insert(name.to_owned());
        self.order.push(name.to_owned());
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn order(wanted: &[&str], edges: &[(&str, &str)]) -> Result<Vec<String>, Vec<String>> {
        let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let needs = |name: &str| {
            let edges = edges.iter().filter(|(from, _)| *from == name);
            Ok::<_, Infallible>(edges.map(|(_, to)| (*to).to_owned()).collect())
        };
        let Ok(order) = load_order(&wanted, needs);
        order
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let edges = [
            ("net", "failover"),
            ("net", "virtio"),
            ("blk", "virtio"),
            ("virtio", "ring"),
        ];
        let expected = ["failover", "ring", "virtio", "net", "blk"];
        assert_eq!(order(&["net", "blk"], &edges).unwrap(), expected);
    }

    #[test]
    fn a_circle_is_told_with_the_way_through_it() {
        let edges = [("a", "b"), ("b", "c"), ("c", "b")];
        assert_eq!(order(&["a"], &edges).unwrap_err(), ["b", "c", "b"]);
    }

    proptest! {
        #[test]
        fn every_need_is_loaded_before_the_one_that_needs_it(
            pairs in proptest::collection::vec((0_u8..20, 0_u8..20), 0..60),
        ) {
            // Edges to smaller numbers only: no circles.
            let edges: Vec<_> = pairs.iter().filter(|(from, to)| to < from).collect();
            let wanted: Vec<_> = (0_u8..20).rev().map(|n| n.to_string()).collect();
            let needs = |name: &str| {
                let from: u8 = name.parse().unwrap();
                let needed = edges.iter().filter(|edge| edge.0 == from);
                Ok::<_, Infallible>(needed.map(|edge| edge.1.to_string()).collect())
            };
            let Ok(order) = load_order(&wanted, needs);
            let order = order.unwrap();
            prop_assert_eq!(order.len(), 20);
            let at = |n: u8| order.iter().position(|name| *name == n.to_string()).unwrap();
            for (from, to) in edges {
                prop_assert!(at(*to) < at(*from));
            }
        }
    }
}
