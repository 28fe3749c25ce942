# One bucket for each program that writes, so that rights can be given by bucket. All are versioned: what was overwritten
# or deleted can be restored for a while. None can be made public, and rights are given for whole buckets only.
locals {
  buckets = {
    data   = "Raw MIDI and TFRecords: the pipeline writes, the trainer reads."
    runs   = "Runs of the trainer: checkpoints, weights, samples."
    models = "Exported models, and TF Serving's configuration: the trainer writes, the service reads."
    temp   = "Dataflow's staging and temporary files, and sources on their way to Cloud Build."
  }
}

resource "google_storage_bucket" "bucket" {
  for_each = local.buckets

  name                        = "${var.project}-cadenza-${each.key}"
  location                    = var.region
  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = each.key == "temp"
  labels                      = { app = "cadenza" }

  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = 0 # old versions can be restored already; this would be charged in addition
  }

  # Older versions of an object are deleted after a while.
  lifecycle_rule {
    condition {
      days_since_noncurrent_time = each.key == "temp" ? 1 : var.keep_runs_days
    }
    action {
      type = "Delete"
    }
  }

  # An interrupted upload leaves parts that are not listed, but cost money.
  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  # Temporary files are deleted after a week; all others stay until somebody deletes them.
  dynamic "lifecycle_rule" {
    for_each = each.key == "temp" ? [1] : []

    content {
      condition {
        age = 7
      }
      action {
        type = "Delete"
      }
    }
  }

  depends_on = [google_project_service.api]
}
