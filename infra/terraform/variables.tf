variable "project" {
  description = "The project's id. Names of buckets begin with it, because a bucket's name must be unique among all projects."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "The project's id, such as my-music-1234: not its name, nor its number."
  }
}

variable "region" {
  description = "The region of buckets, images, jobs and the service. One region for all: traffic inside it costs nothing."
  type        = string
  default     = "europe-west4"
}

variable "billing_account" {
  description = "The billing account's id, such as 012345-6789AB-CDEF01; the budget alert belongs to it."
  type        = string

  validation {
    condition     = can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "Three groups of six hexadecimal digits, as `gcloud billing accounts list` shows them."
  }
}

variable "monthly_budget" {
  description = "In the billing account's own currency. Mail is sent at half of it, at nine tenths, and at all of it; nothing is stopped."
  type        = number
  default     = 50
}

variable "alert_email" {
  description = "Address that gets mail when a job fails or the budget is reached."
  type        = string
}

variable "keep_runs_days" {
  description = "Days that checkpoints and other temporary files are kept after they were replaced or deleted."
  type        = number
  default     = 14
}

variable "keep_images" {
  description = "Number of versions of each image that are kept; older ones are deleted after a month."
  type        = number
  default     = 10
}
