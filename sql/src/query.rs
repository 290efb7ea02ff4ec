//! A query from its syntax tree to a stream of batches.
//!
//! Planning and running happen on the query threads. A pump there reads the plan's stream into a channel of two batches;
//! whoever reads the answer holds the pump: when the answer is dropped or its time is over, the pump is aborted, and with
//! it every task of the plan.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result as PlanResult;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use thermocline_schemas::Result;
use tokio::sync::mpsc;

use crate::errors::from_datafusion;
use crate::front::{Explain, prepare};
use crate::meaning::state_for;
use crate::scan::ReadStats;
use crate::session::Names;
use crate::sql::{Answer, Deadline, Sql, SqlRequest, Working, column_types};

/// Batches between the query threads and who reads the answer.
const BATCHES_AHEAD: usize = 2;

impl Sql {
    pub(crate) async fn query(
        self: &Arc<Self>,
        query: Box<ast::Query>,
        explain: Option<Explain>,
        names_system_columns: bool,
        request: &SqlRequest,
        deadline: Deadline,
    ) -> Result<Answer> {
        let stats = Arc::<ReadStats>::default();
        let batches = self.stream(query, explain, names_system_columns, request, stats.clone()).await?;
        let schema = batches.schema();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let pump = self.session().spawn(pump(batches, sender))?;
        let batches = Pumped { receiver, pump: Some(Working(pump)), deadline }.into_stream();
        Ok(Answer { column_types: column_types(&schema), schema, batches, stats, notes: Vec::new() })
    }

    /// Plans a query over pinned tables and starts it. Must run on the query threads.
    pub(crate) async fn stream(
        &self,
        mut query: Box<ast::Query>,
        explain: Option<Explain>,
        names_system_columns: bool,
        request: &SqlRequest,
        stats: Arc<ReadStats>,
    ) -> Result<SendableRecordBatchStream> {
        let prepared =
            prepare(&mut query, &request.params, &request.database, names_system_columns, self.options().depth_max)?;
        let relations = self.relations(&prepared, &request.database, names_system_columns, stats).await?;
        let state = self.session().query();
        let names = Names::new(&state, &request.database, relations);
        let plan = plan(&names, query, explain).map_err(from_datafusion)?;
        start(&state, plan).await.map_err(from_datafusion)
    }
}

pub(crate) fn plan(names: &Names<'_>, query: Box<ast::Query>, explain: Option<Explain>) -> PlanResult<LogicalPlan> {
    let query = ast::Statement::Query(query);
    let statement = match explain {
        None => query,
        Some(Explain { analyze, verbose }) => ast::Statement::Explain {
            describe_alias: ast::DescribeAlias::Explain,
            analyze,
            verbose,
            query_plan: false,
            estimate: false,
            statement: Box::new(query),
            format: None,
            options: None,
        },
    };
    let plan = SqlToRel::new_with_options(names, parser_options()).sql_statement_to_plan(statement)?;
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    Ok(plan)
}

/// How the planner reads syntax trees.
pub(crate) fn parser_options() -> ParserOptions {
    ParserOptions::new().with_map_string_types_to_utf8view(false)
}

pub(crate) async fn start(state: &SessionState, plan: LogicalPlan) -> PlanResult<SendableRecordBatchStream> {
    let plan = state.optimize(&plan)?;
    let state = state_for(state, &plan)?;
    let plan = state.query_planner().create_physical_plan(&plan, &state).await?;
    execute_stream(plan, state.task_ctx())
}

async fn pump(mut batches: SendableRecordBatchStream, sender: mpsc::Sender<Result<RecordBatch>>) {
    while let Some(batch) = batches.next().await {
        let failed = batch.is_err();
        if sender.send(batch.map_err(from_datafusion)).await.is_err() || failed {
            return;
        }
    }
}

/// The reading end of a pump.
struct Pumped {
    receiver: mpsc::Receiver<Result<RecordBatch>>,
    pump: Option<Working<()>>,
    deadline: Deadline,
}

impl Pumped {
    fn into_stream(self) -> BoxStream<'static, Result<RecordBatch>> {
        stream::unfold(Some(self), |pumped| async {
            let mut pumped = pumped?;
            match pumped.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(pumped))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        // Who looks again after the end gets the end again.
        .fuse()
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let deadline = self.deadline;
        if let Some(batch) = deadline.bound(self.receiver.recv()).await? {
            return batch.map(Some);
        }
        // A pump that panicked closed its channel too: that must not look like a clean end.
        if let Some(pump) = self.pump.take() {
            deadline.bound(pump).await??;
        }
        Ok(None)
    }
}
