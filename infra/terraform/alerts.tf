# Mail when the budget is reached or a job fails. An alert only informs; it stops nothing.
data "google_project" "this" {
  depends_on = [google_project_service.api]
}

resource "google_monitoring_notification_channel" "mail" {
  type         = "email"
  display_name = "Cadenza"
  labels       = { email_address = var.alert_email }
  depends_on   = [google_project_service.api]
}

resource "google_billing_budget" "month" {
  billing_account = var.billing_account
  display_name    = "Cadenza, a month"

  budget_filter {
    projects        = ["projects/${data.google_project.this.number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      units = tostring(floor(var.monthly_budget))
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]

    content {
      threshold_percent = threshold_rules.value
    }
  }

  all_updates_rule {
    monitoring_notification_channels = [google_monitoring_notification_channel.mail.name]
  }
}

# Log lines of jobs that have failed. For Batch these are our trainer's last line, and the agent's report of a container
# that ended with another code than 0. Whether each filter matches its case has not been tested yet (README.md).
locals {
  failures = {
    dataflow = "resource.type=\"dataflow_step\" AND severity>=ERROR AND textPayload:\"Workflow failed\""
    trainer  = "log_id(\"batch_task_logs\") AND (textPayload=~\"^trainer: \" OR textPayload:\"Traceback (most recent call last)\")"
    batch    = "log_id(\"batch_agent_logs\") AND textPayload=~\"exited with status [1-9]\""
    build    = "resource.type=\"build\" AND textPayload=~\"^ERROR: build step\""
    service  = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"cadenza\" AND severity>=ERROR"
  }
}

resource "google_monitoring_alert_policy" "failed" {
  for_each = local.failures

  display_name          = "Cadenza: ${each.key} failed"
  combiner              = "OR"
  notification_channels = [google_monitoring_notification_channel.mail.name]

  conditions {
    display_name = each.key

    condition_matched_log {
      filter = each.value
    }
  }

  alert_strategy {
    notification_rate_limit {
      period = "3600s"
    }
  }
}
